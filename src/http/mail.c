/*-------------------------------------------------------------------------
 *
 * mail.c
 *		Calls by SMTP.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>
#include <strings.h>

#include "library.h"

/* those without a server of their own, which libcurl would wait for */
#define LOGIN_OPTIONS "AUTH=PLAIN;AUTH=LOGIN;AUTH=CRAM-MD5"

static size_t read_body(char *buffer, size_t size, size_t count, void *arg);

/*
 * smtps:// is TLS from the start. smtp:// becomes it if the server can, and has to
 * if there is a password; with allow_http it stays as it is.
 */
CURLcode
evi_mail_prepare(EviTransfer *transfer, const EviHttpRequest *request)
{
	CURL	   *easy = transfer->easy;
	long		use_ssl = request->password ? CURLUSESSL_ALL : CURLUSESSL_TRY;
	CURLcode	code;

	transfer->body = request->body;
	transfer->body_length = request->body ? request->body_length : 0;
	transfer->body_read = 0;
	transfer->is_after_cr = false;

	for (int i = 0; request->recipients[i]; i++)
	{
		struct curl_slist *list = curl_slist_append(transfer->recipients, request->recipients[i]);

		if (list == NULL)
			return CURLE_OUT_OF_MEMORY;
		transfer->recipients = list;
	}
	if (request->allow_http && strncasecmp(request->url, "smtps:", 6) != 0)
		use_ssl = CURLUSESSL_NONE;

	if ((code = curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps")) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_USE_SSL, use_ssl)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_MAIL_FROM, request->sender)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, transfer->recipients)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_READDATA, transfer)) != CURLE_OK)
		return code;
	if (request->user == NULL)
		return CURLE_OK;
	if ((code = curl_easy_setopt(easy, CURLOPT_USERNAME, request->user)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PASSWORD,
								 request->password ? request->password : "")) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_LOGIN_OPTIONS, LOGIN_OPTIONS)) != CURLE_OK)
		return code;
	return CURLE_OK;
}

/*
 * Gives libcurl the mail, with each line ended by CR LF. It looks for lines of a
 * dot, which end a mail, after those only; a server may take less for an end.
 */
static size_t
read_body(char *buffer, size_t size, size_t count, void *arg)
{
	EviTransfer *transfer = arg;
	size_t		room = size * count;
	size_t		length = 0;

	while (transfer->body_read < transfer->body_length && length + 2 <= room)
	{
		char		c = transfer->body[transfer->body_read++];

		if (c == '\r' || (c == '\n' && !transfer->is_after_cr))
		{
			buffer[length++] = '\r';
			buffer[length++] = '\n';
		}
		else if (c != '\n')
			buffer[length++] = c;
		transfer->is_after_cr = c == '\r';
	}
	return length;
}
