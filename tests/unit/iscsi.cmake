foreach(part pdu response text login)
  mooring_test(iscsi_${part}_test SOURCES tests/unit/iscsi_${part}_test.c DEPENDS mooring_iscsi)
endforeach()
mooring_test(iscsi_client_test SOURCES tests/unit/iscsi_client_test.c
  DEPENDS mooring_iscsi PkgConfig::libiscsi Threads::Threads)
