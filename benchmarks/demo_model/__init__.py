"""The training of script-demo, a small LLaVA-NeXT and its CLIP; README.md here says how."""
