"""Tools of others, and mlc, at the sample's job as a newcomer meets it: what is written, waited for, and told."""
