"""A small VLM on photographs: trained parts put together, tuned, and examined. See README.md."""
