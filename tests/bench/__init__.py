"""What a tick and a rotation cost beside other ways to do the same."""
