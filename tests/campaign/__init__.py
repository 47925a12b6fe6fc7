"""Long runs against real and fake storage that count violations; started by `make campaign`, never by pytest."""
