"""Where models come from: each kind of source gives an Original."""
