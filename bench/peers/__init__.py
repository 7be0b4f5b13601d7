"""What ours is measured against, each written as its own documentation recommends."""
