"""Watch the appliance from outside, for the demo and the tests: journals, S3's log, restored rows."""
