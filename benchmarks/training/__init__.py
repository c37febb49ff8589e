"""Training in stages that can be stopped at any time: for demo_model/ and photo_model/."""
