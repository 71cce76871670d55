"""What a module quantizes by itself: codes and scales, noted while it runs."""
