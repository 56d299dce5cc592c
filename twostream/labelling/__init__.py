"""A page in the browser on which a person gives classes to videos."""
