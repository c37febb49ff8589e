"""script-demo: a tiny LLaVA-NeXT and its CLIP, trained from scratch on synthetic scenes."""
