"""One run whose stream is measured in shards: by workers of this machine, or on a Ray cluster.

`cut` decides which samples each shard holds, a transport (`protocol`) starts the shards, and
`conductor` drives them level by level together with the worker that assembles the results. All
of them handle bytes that they do not parse: only sandboxed workers read models, samples and
moments.
"""
