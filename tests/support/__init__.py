"""Projects, models, drivers and factories that the tests share."""
