"""See inside a network: its filters and maps, where it looks, and whether the images of it are true."""
