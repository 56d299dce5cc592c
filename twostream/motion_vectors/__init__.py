"""Motion that an encoded video already holds: the vectors by which its frames are predicted from each other."""
