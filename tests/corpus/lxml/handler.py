"""Transforms an XML catalogue by XSLT; the library is compiled C with libxml2 and libxslt in its wheel."""

from lxml import etree

SHEET = etree.XSLT(
    etree.XML(
        b"""<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
        <xsl:output method="html" indent="no"/>
        <xsl:template match="/books">
          <ul><xsl:for-each select="book[@year &gt; 1900]"><xsl:sort select="@year" data-type="number"/>
            <li><xsl:value-of select="title"/> (<xsl:value-of select="@year"/>)</li>
          </xsl:for-each></ul>
        </xsl:template>
        </xsl:stylesheet>"""
    )
)


def handler(payload: bytes, ctx: dict) -> bytes:
    return etree.tostring(SHEET(etree.fromstring(payload)), method="html")
