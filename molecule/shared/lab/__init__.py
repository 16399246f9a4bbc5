"""The lab: machines that really boot, their network and their certificate authorities."""
