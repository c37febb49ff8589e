"""The exam of script-demo: synthetic scenes, pictures, and questions with one right answer."""
