foreach(part error id io record settings text)
  mooring_test(common_${part} SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/common_${part}.c
    DEPENDS mooring_common PkgConfig::jansson)
endforeach()
