"""A page of events in local time, from a JSON feed: [{"name": "Fête", "at": "2030-07-01T18:00:00Z"}]."""
