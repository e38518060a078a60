"""The edge: HAProxy in front of one or several Serve nodes, configured, started and watched from here.

It gives what Serve's own proxy does not have: TLS and plain on one port (10095, where FunASR's clients
look), the repair of one official client's handshake, caps on connections, and metrics of its own. It knows
nothing of Ray: :mod:`serve_app.cli.edge` runs it alone, :mod:`serve_app.cli.server` together with the graph.
"""
