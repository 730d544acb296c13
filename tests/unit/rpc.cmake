if(TARGET mooring_rpc AND TARGET mooring_proto)
  mooring_test(rpc_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/rpc_test.c ${CMAKE_CURRENT_LIST_DIR}/rpc_calls_test.c
            ${CMAKE_CURRENT_LIST_DIR}/rpc_parts_test.c ${CMAKE_CURRENT_LIST_DIR}/rpc_tls_test.c
            ${CMAKE_CURRENT_LIST_DIR}/rpc_fixture.c ${CMAKE_CURRENT_LIST_DIR}/rpc_service.c
    DEPENDS mooring_rpc mooring_proto)

  # Not a test by itself: what tests/integration/test_proto_rpc.py starts.
  add_executable(rpc_test_server ${CMAKE_CURRENT_LIST_DIR}/rpc_test_server.c ${CMAKE_CURRENT_LIST_DIR}/rpc_service.c)
  target_include_directories(rpc_test_server PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(rpc_test_server PRIVATE mooring_rpc mooring_proto)
  set_target_properties(rpc_test_server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endif()
