"""What a trained network is good for: predicting, scoring, reviewing labels, leaving for other programs."""
