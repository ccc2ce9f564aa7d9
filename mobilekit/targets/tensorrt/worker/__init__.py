"""Everything that touches TensorRT, CUDA or a GPU: a program that needs only Python 3.8, numpy and TensorRT.

It is this folder, which Python runs as it stands; other machines get it as one file, a zip archive
(:mod:`mobilekit.targets.tensorrt.ssh_host`). So it imports nothing of mobilekit. TensorRT may abort, and a build after
a failed one may be wrong: it always runs in a process of its own. ::

    python worker --hello           one JSON line: protocol, versions, GPUs
    python worker FOLDER            do the job in FOLDER; exit code 0 if and only if FOLDER/result.json is whole
    python worker --serve [MODULE]  the same for each folder named by a line on stdin, answered by a line
                                    {"job": FOLDER}; what was loaded stays loaded. Ends with stdin, even in the middle.
                                    MODULE is imported before the first job

``FOLDER/job.json`` has ``protocol``, ``verb``, ``module`` ("tensorrt" or "tensorrt_rtx") and the keyword arguments of
the function of that name (``check``, ``build``, ``run``, ``inspect``); files are named relative to the folder.
``result.json`` appears last: what the function returns, or ``{"error": {"kind", "message", "hint"}}``. Progress is JSON
lines ``{"step": text}`` on stderr, where native libraries write too.
"""
