"""Advice on drops and fusion members: measured metrics and times, and the best combination of them."""
