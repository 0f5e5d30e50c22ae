"""Long work as plans of chunks with manifests.

    request -> Plan (pure) -> chunks -> worker: objects, then one manifest a chunk -> finish: result manifest -> response

The object store is the truth: a restart lists the manifests that exist, subtracts, and goes on. Running a chunk twice is harmless.
``plan`` holds the data, ``stage`` what a worker implements, ``chunk`` the one function every executor and the chunk command call,
``ledger`` the operation records, ``driver`` the function that takes an operation to its end, ``reconciler`` what calls it.
"""
