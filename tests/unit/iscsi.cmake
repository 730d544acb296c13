foreach(part pdu response text login)
  mooring_test(iscsi_${part}_test SOURCES tests/unit/iscsi_${part}_test.c DEPENDS mooring_iscsi)
endforeach()
