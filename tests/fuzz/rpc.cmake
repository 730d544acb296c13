if(TARGET mooring_rpc AND TARGET mooring_proto)
  mooring_fuzzer(fuzz_rpc_wire SOURCES ${PROJECT_SOURCE_DIR}/tests/fuzz/rpc_wire.c DEPENDS mooring_rpc mooring_proto)
endif()
