"""hqfkernels against other simulators, each in an environment and a process of its own: ``python -m bench.peers``.

- `registry`: who is measured.
- `adapters`: the benchmark circuit in each library's fastest form.
- `requirements`: what each environment holds, pinned, with the reasons; `environments` creates them.
- `worker`: the process that runs an adapter; `client`: the driver's end of the conversation with it.
- `measure`: checks every peer against the reference and times them in alternating rounds; the layout of the results.
- `report`: results as Markdown.
"""
