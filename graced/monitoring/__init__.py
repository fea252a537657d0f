"""What people and programs look at: metrics, history, and the page."""
