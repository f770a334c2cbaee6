"""A network as one Python file that imports torch alone."""

from nas.export.python.write import network_source as network_source
