"""What a network looks at, and whether the pictures of it are true."""
