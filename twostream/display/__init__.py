"""What a recognizer said of a video, shown to people: a page, a video with labels."""
