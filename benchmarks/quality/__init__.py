"""Compare the answers of searches with simpler ones over the tasks of the suite; see `benchmarks.search_quality`.

`tasks` names the data, `roles` writes the search file of each role, `cells` runs them one by one, `seeds` trains
further seeds, `predictions` asks the exported models, `finished` keeps what they answered, `bootstrap` and `figures`
compare them.
"""
