"""Search strategies, which decide what to score next. One file per strategy, one line each in `nas.search.register`."""
