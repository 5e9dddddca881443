"""Tables, pictures and the page: how results are shown."""
