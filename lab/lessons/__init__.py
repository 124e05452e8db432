"""What the lessons ask and check, and the panel of client drift."""
