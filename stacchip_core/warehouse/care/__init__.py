"""Time and care: what old versions hold, what may go, what is wrong, and how it is mended."""
