/*
 * Key and certificate files. Each is written to an unnamed file, fsynced, and then linked: link(2) never
 * replaces anything. The key comes first; a certificate without a key helps nobody. Blocking; called by
 * tls_issue.c.
 */
#include "rpc/tls_write.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

static char *write_directory(const char *path)
{
    char *copy = strdup(path), *directory = copy ? strdup(dirname(copy)) : NULL;

    free(copy);
    return directory;
}

/* The PEM text of either, in memory; NULL when memory ran out. */
static BIO *write_pem(X509 *certificate, EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    int written = 0;

    if (bio && certificate)
        written = PEM_write_bio_X509(bio, certificate);
    else if (bio)
        written = PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    if (written == 1)
        return bio;
    BIO_free(bio);
    return NULL;
}

/* Give a whole, fsynced file its name. link(2) fails where rename(2) would replace. */
static int write_link(const char *temporary, const char *path, struct error *err)
{
    if (link(temporary, path) == 0)
        return 0;
    if (errno == EEXIST)
        return error_set(err, E_EXISTS, "%s exists: it is never replaced; remove it or choose another name",
                         path);
    return error_errno(err, errno, "write %s", path);
}

static int write_content(int fd, BIO *pem, mode_t mode)
{
    char *text;
    long length = BIO_get_mem_data(pem, &text);
    int code = fchmod(fd, mode) < 0 ? -errno : 0; /* whatever the umask */

    if (!code)
        code = io_write_full(fd, text, (size_t)length);
    if (!code && fsync(fd) < 0)
        code = -errno;
    return code;
}

static int write_file(const char *path, BIO *pem, mode_t mode, struct error *err)
{
    _cleanup_free_ char *temporary = str_format("%s.XXXXXX", path);
    _cleanup_fd_ int fd = -1;
    int code;

    if (!pem || !temporary)
        return error_errno(err, ENOMEM, "write %s", path);
    fd = mkostemp(temporary, O_CLOEXEC); /* mode 0600 */
    if (fd < 0)
        return error_errno(err, errno, "write %s", path);
    code = write_content(fd, pem, mode);
    if (code)
        error_errno(err, -code, "write %s", path);
    else
        code = write_link(temporary, path, err);
    unlink(temporary);
    return code;
}

static int write_both(const char *directory, BIO *certificate, const char *cert_path, BIO *key,
                      const char *key_path, struct error *err)
{
    int code;

    if (access(cert_path, F_OK) == 0)
        return error_set(err, E_EXISTS, "%s exists: it is never replaced; remove it or choose another name",
                         cert_path);
    code = write_file(key_path, key, 0600, err);
    if (code)
        return code;
    code = write_file(cert_path, certificate, 0644, err);
    if (!code)
        code = io_sync_dir(directory, err);
    else
        unlink(key_path);
    return code;
}

int tls_write_pair(X509 *certificate, EVP_PKEY *key, const char *cert_path, const char *key_path,
                   struct error *err)
{
    BIO *certificate_pem = write_pem(certificate, NULL), *key_pem = write_pem(NULL, key);
    _cleanup_free_ char *directory = write_directory(cert_path);
    int code;

    if (directory)
        code = write_both(directory, certificate_pem, cert_path, key_pem, key_path, err);
    else
        code = error_errno(err, ENOMEM, "write %s", cert_path);
    BIO_free(certificate_pem);
    BIO_free(key_pem);
    return code;
}
