"""Use a trained network: predict, evaluate, review masks, export."""
