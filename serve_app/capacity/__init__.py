"""What a GPU can hold and carry: memory of each deployment, placement as Ray does it, and plans. No Ray
here."""
