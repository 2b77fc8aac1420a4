"""The OTP processes that every node is expected to have."""
