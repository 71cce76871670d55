"""Where models run: every runtime gives the same Session, and says which node ran where."""
