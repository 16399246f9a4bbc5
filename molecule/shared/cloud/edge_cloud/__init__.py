"""The lab's stand-in for AWS: a credential provider and a gate in front of an S3 server."""
