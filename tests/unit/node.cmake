mooring_test(node_process SOURCES tests/unit/node_process.c DEPENDS mooring_node)
mooring_test(node_record SOURCES tests/unit/node_record.c DEPENDS mooring_node)
mooring_test(node_filesystem SOURCES tests/unit/node_filesystem.c DEPENDS mooring_node)
mooring_test(node_iscsi SOURCES tests/unit/node_iscsi.c DEPENDS mooring_node)
