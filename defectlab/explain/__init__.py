"""See inside a network: its filters and maps, where it looks, and whether the pictures of it are true."""
