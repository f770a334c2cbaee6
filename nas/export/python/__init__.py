"""A network as one Python file that imports torch alone."""

from nas.export.python.network_file import network_source as network_source
