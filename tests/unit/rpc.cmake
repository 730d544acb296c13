if(TARGET mooring_rpc AND TARGET mooring_proto)
  mooring_test(rpc_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/rpc_test.c ${CMAKE_CURRENT_LIST_DIR}/rpc_calls_test.c
            ${CMAKE_CURRENT_LIST_DIR}/rpc_parts_test.c ${CMAKE_CURRENT_LIST_DIR}/rpc_tls_test.c
            ${CMAKE_CURRENT_LIST_DIR}/rpc_fixture.c ${CMAKE_CURRENT_LIST_DIR}/rpc_service.c
    DEPENDS mooring_rpc mooring_proto)
endif()
