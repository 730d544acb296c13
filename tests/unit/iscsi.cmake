foreach(part pdu response text)
  mooring_test(iscsi_${part}_test SOURCES tests/unit/iscsi_${part}_test.c DEPENDS mooring_iscsi)
endforeach()
foreach(part login login_refusal)
  mooring_test(iscsi_${part}_test SOURCES tests/unit/iscsi_${part}_test.c tests/unit/iscsi_login_fixture.c
    DEPENDS mooring_iscsi)
endforeach()
mooring_test(iscsi_client_test SOURCES tests/unit/iscsi_client_test.c
  DEPENDS mooring_iscsi PkgConfig::libiscsi Threads::Threads)
