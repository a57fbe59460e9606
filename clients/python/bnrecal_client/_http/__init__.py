"""HTTP messages: requests, responses and their JSON fields."""
