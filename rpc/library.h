/* gRPC core as a process-wide library: counted use of it, and where its own log lines go. */
#pragma once

/* Each server and client holds one reference while it lives. Any thread. */
void rpc_library_ref(void);
void rpc_library_unref(void);
