"""The cluster: which hosts and places there are, and the limits that hold on them."""
