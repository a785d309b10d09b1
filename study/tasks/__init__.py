"""What differs between training a classifier and a detector, and how each is tested."""
